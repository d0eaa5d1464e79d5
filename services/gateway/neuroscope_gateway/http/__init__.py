"""What is common to HTTP answers: JSON, bytes, streams of events, disconnects."""
