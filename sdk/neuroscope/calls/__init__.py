"""What clients ask of services, once for both kinds of client, and how a call is made."""
