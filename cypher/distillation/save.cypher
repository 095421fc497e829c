// Join a student to its teacher; what the edge says is replaced. A student has one teacher. Run after lock.cypher in one transaction.
MATCH (student:MatchGraphModel {id: $student})
MATCH (teacher:MatchGraphModel {id: $teacher})
OPTIONAL MATCH (student)-[old:DISTILLED_FROM]->(other:MatchGraphModel)
WHERE other <> teacher
WITH student, teacher, collect(old) AS former
FOREACH (edge IN former | DELETE edge)
MERGE (student)-[e:DISTILLED_FROM]->(teacher)
SET e = $properties
