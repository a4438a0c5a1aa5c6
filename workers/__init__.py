"""What carries jobs out: one worker, one device, one generator."""
