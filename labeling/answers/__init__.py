"""What a teacher wrote, read as an answer: labels, spans, texts, distributions, traces."""
