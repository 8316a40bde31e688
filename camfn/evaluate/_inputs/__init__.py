"""What `run` takes: photos with their classes and boxes, cases, the protocol, and the target of each photo."""
