// Join a student to its teacher; what the edge says is replaced. A student has one teacher.
MATCH (student:Model {id: $student})
MATCH (teacher:Model {id: $teacher})
OPTIONAL MATCH (student)-[old:DISTILLED_FROM]->(other:Model)
WHERE other <> teacher
WITH student, teacher, collect(old) AS former
FOREACH (edge IN former | DELETE edge)
MERGE (student)-[e:DISTILLED_FROM {key: $key}]->(teacher)
SET e = $properties
