"""Models that run without vaezoo: SavedModel, LiteRT, TensorFlow Serving."""
