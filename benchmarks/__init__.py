"""Speed and memory beside pytorch-grad-cam and torch-cam: off by default, `make bench` runs them and prints a table."""
