"""The sink mqtt:// and mqtts://: what is published, and the connection to the broker."""
