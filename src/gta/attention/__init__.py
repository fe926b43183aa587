"""What a model looks at: maps, measures and pictures of [cls] attention."""
