"""Statistics of predictions in NumPy float64: intervals, calibration, confusion, paired tests."""
