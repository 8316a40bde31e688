"""What the zoo asks of a library, what the library gives, and what the zoo gives."""
