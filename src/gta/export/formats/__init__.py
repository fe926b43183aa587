"""One file per form, with a `gta.export.form.Form` called FORM; a file dropped here adds one to gta export."""
