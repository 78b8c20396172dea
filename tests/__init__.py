"""Tests of tap-homele, against a Homele API that runs on this machine."""
