"""Measures of whole evaluations, on features that a model gave: no model in here."""
