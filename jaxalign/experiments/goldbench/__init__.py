"""The parts of the gold bench (`experiments.gold`): gold rewards, base policy, feedback, methods, cells and their report."""
