"""Singer tap for Homele CRM."""
