"""Several predictions of one picture merged into one; frames of a clip brought to one range."""
