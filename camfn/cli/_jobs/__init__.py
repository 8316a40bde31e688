"""The runs behind the commands, each with its inputs checked."""
