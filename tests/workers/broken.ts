throw new RangeError("not configured");
