import pytest

from regrow.quality.personal import SECRETS, find, mask

RANDOM = "aB3dE5gH7jK9mN1pQ4sT6vW8"
JWT = f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.{RANDOM}"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7y3Q\nabc=\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "kind", "secret"),
    [
        ("kiwi.farm+news@fruit.co.nz", "e-mail", "kiwi.farm+news@fruit.co.nz"),
        ("Call (212) 684-4700 now", "telephone", "(212) 684-4700"),
        ("Call 212-684-4700.", "telephone", "212-684-4700"),
        ("tel. +1 212 684-4700", "telephone", "+1 212 684-4700"),
        ("tel. +49 30 9018 2000", "telephone", "+49 30 9018 2000"),
        ("from 81.2.69.142", "IP address", "81.2.69.142"),
        ("SSN 219-45-8831", "social security number", "219-45-8831"),
        ("card 4539 1488 0343 6467", "card", "4539 1488 0343 6467"),
        ("card 4539148803436467", "card", "4539148803436467"),
        ("AKIA2E0A8F3B244C9986", "AWS key", "AKIA2E0A8F3B244C9986"),
        (f"sk-proj-{RANDOM}", "API key", f"sk-proj-{RANDOM}"),
        (f"ghp_{RANDOM}{RANDOM}", "API key", f"ghp_{RANDOM}{RANDOM}"),
        (f"hf_{RANDOM}{RANDOM}", "API key", f"hf_{RANDOM}{RANDOM}"),
        (f"Bearer {JWT}", "web token", JWT),
        (f"key:\n{PEM}\nbye", "private key", PEM),
    ],
)
def test_what_is_found_and_masked(text, kind, secret):
    (match,) = find(text)
    assert (match.kind, match.text) == (kind, secret)
    masked = mask(text)
    assert masked == text.replace(secret, f"[{kind} {secret[:2]}…]")
    assert mask(masked) == masked
    assert (kind in SECRETS) is (kind in {"AWS key", "API key", "web token", "private key"})


@pytest.mark.parametrize(
    "text",
    [
        "Write to kiwi@example.com or info@shop.example.org.",
        "user@localhost",
        "900-200-1000 = -300",
        "$212-684-4700",
        "She has 212 684 4700 of them.",  # no telephone is written so without a sign
        "He ran 100-200-3000 m",
        "Call 555-0123 or 212-555-0123 or 123-456-7890.",
        "x + 123 456 789",
        "5 +12 345 678 9",
        "127.0.0.1, 10.0.0.1, 192.168.1.1, 0.0.0.0, 255.255.255.0",
        "version 10.0.19041.1",
        "pi is 3.14159265358979",
        "4111 1111 1111 1111",
        "4539 1488 0343 6468",  # the check digit is wrong
        "4539148803436467 * 2",
        "078-05-1120",
        "2021-10-12 to 2022-11-13",
        "sk-xxxxxxxxxxxxxxxxxxxxxxxx",
        "sk-your-key-goes-here-please-1234567890",
        "a risk-based-approach-to-everything-in-1999",
        "AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN RSA PRIVATE KEY-----\n...",
        "ISBN 978-3-16-148410-0",
    ],
)
def test_what_is_no_persons(text):
    assert find(text) == []
    assert mask(text) == text


def test_several_in_one_text():
    text = "ana@fruit.org, 212-684-4700, bob@fruit.org"
    assert mask(text) == "[e-mail an…], [telephone 21…], [e-mail bo…]"
