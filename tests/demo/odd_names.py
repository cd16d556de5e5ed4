"""Names of classes that a page must show as text."""

HOSTILE = ("<img src=x onerror=document.title=1>", "a\u202eb", "c & d", "</script>")
