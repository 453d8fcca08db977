"""What a configuration will need, told before anything starts: no module here imports torch, but
calibration, where there is a CPU to time.
"""
