"""Who answers: OpenAI-compatible servers and recorded replies."""
