"""What comes from the network, and what goes there."""
