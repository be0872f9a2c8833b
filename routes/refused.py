"""Requests that are refused."""


class Refused(Exception):
    """A request gets no answer but a sentence, which says why.

    Attributes:
        status: The HTTP status of the answer.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
