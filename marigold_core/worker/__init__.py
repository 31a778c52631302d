"""The engine as a child process, for programs that keep torch out of their own Python."""
