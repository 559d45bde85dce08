"""The tests of flowguard; CONTRIBUTING.md says what lives where."""
