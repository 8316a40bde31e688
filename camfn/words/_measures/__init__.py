"""What words owe to a picture, in numbers: with less of it shown, against masks, and where answers turn."""
