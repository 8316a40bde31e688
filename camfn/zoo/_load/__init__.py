"""A model by its name: `load` finds the builder, fills the weights in, and prepares photos as the user asked."""
