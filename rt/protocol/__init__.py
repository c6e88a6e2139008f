"""What the bytes mean: pure functions and small machines. Nothing here does input or output, or reads a clock."""
