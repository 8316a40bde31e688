"""Names of classes: of ImageNet, and a user's own."""
