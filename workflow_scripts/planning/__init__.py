"""What a configuration will need, told before anything starts: no module here imports torch."""
