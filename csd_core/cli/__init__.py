"""The commands: each parses its config, calls the library and prints."""
