"""The numbers that a run prints, held against NumPy, scikit-learn and optax."""
