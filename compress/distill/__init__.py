"""Objectives, one a file after its paper, and the teacher's answers, kept."""
