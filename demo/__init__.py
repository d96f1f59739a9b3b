"""The demo: a day of departures from New York, squeezed into half a minute."""
