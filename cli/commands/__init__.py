"""One file per command. What takes long to import is imported inside the command's body."""
