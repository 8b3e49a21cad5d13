"""The sections of a report, one file each: every one turns folders and a comparison into plain records."""
