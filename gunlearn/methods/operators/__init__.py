"""Methods that train operators put after layers."""
