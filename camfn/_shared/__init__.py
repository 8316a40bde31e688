"""The ground floor: words, checks and arithmetic that every other room stands on."""
