"""Numbers as people say them."""


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3 h 5 min'."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
