"""See the package."""


class StructuredOutputsParams:
    def __init__(self, json):
        self.json = json
