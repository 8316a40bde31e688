"""What is asked of a library, what the library gives, and what the zoo gives."""
