"""The paper's experiments: a grid of edits, figures of each, and tables and plots beside the paper's."""
