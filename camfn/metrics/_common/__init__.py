"""What metrics of several questions share: scores of images, maps at their size, regions, a filter."""
