"""What a hypercall is: codes, statuses, input value, XMM verdicts. Data and pure functions."""
