// One row where this program set the database up before its nodes had labels of their own (schema versions 1 to 14).
SHOW CONSTRAINTS YIELD name, labelsOrTypes, properties
WHERE name = 'schema_version' AND labelsOrTypes = ['Schema'] AND properties = ['version']
RETURN name
