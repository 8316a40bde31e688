"""What a run is given: photos with their classes and boxes, cases, the protocol, and the target of each photo."""
