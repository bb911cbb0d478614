"""A data set of one's own: what it returns may be anything that ``plait.simulate`` takes."""


def numbers():
    """Lines of counting, by two authors."""
    return [
        {"text": f"{author} counts {number}, {number + 1}, {number + 2}\n" * (1 + number % 5), "author": author}
        for number in range(60)
        for author in ("ada", "bob")
    ]
