"""The commands: what each is asked, and the run that it starts."""
