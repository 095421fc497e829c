// All students with their teachers.
MATCH (student:MatchGraphModel)-[e:DISTILLED_FROM]->(teacher:MatchGraphModel)
RETURN student.id AS student, teacher.id AS teacher, properties(e) AS properties
ORDER BY student, teacher
