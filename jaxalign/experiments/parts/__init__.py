"""What experiments share: maps, many seeds at once, a tiny decoder, tables, and the way to stop between cells."""
