"""The analysis service: mechanistic analyses of models that it reaches through the inference service only."""
