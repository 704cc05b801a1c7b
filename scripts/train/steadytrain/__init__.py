"""Trains the bundled emoji model: data, scenes, model shapes, optimisers, the recogniser."""
